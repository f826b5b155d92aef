"""One file a layout of a data set on disk, and the shared reading of rows."""
