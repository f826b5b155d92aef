"""Folders, archives and images: folders and archives alike."""
