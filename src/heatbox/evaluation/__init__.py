"""Maps of a data set made, saved and scored."""
