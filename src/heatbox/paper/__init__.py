"""The paper as a program: every table and figure of it as steps with declared inputs, outputs and cost.

`steps` says what a step is and where it stands, `runner` runs a plan in worker processes, `plan` makes one
plan for any scale, `mini` and `full` are the scales, `networks` says where weights are, and `work` is what
the steps do.
"""
