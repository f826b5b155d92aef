"""Files of data sets: folders and archives with one interface, and images."""
