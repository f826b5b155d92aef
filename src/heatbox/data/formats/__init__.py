"""The layouts of data sets on disk, one module per layout, and the shared reading of rows."""
