"""Images, labels and boxes come in."""
