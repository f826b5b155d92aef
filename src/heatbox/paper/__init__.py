"""Every table and figure of the paper as steps with declared inputs, outputs and cost.

`steps` defines a step and its status, `plan` makes the steps of a scale, `mini` and `full` are the scales,
`work` has the functions that the steps call, and `runner` runs a plan in worker processes.
"""
