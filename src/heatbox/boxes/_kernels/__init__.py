"""Compiled kernels of the component tree.

`component_tree` handles maps with any number of levels. `monotone_runs`, `merge_tree` and `score` are the
fast path for 8-bit maps: the same boxes from a merge tree that visits only the few pixels that can change
them.

1. Pixels are ordered by value, brightest first, in raster order among equals. For each pixel an 8-bit mask
   marks the neighbours that precede it. A table of 256 entries (`neighbours`) then identifies the *critical
   pixels*: those that join several components or may extend a bounding box. On smooth maps that is one pixel
   in thirty.
2. A row is cut into *monotone runs*, which fall to both sides of one row maximum. From any pixel of a run a
   path of preceding pixels leads to that maximum, from there to a maximum in a neighbouring row, and so on
   to a maximum of the map. So every pixel is assigned to a maximum without being visited: components are
   sets of maxima, and a union-find over maxima, applied to the critical pixels alone, gives every bounding
   box.
3. Holes are the components of the inverted map over 4 neighbours, until they reach the frame. The level at
   which each does so fills the holes of all cuts at once.
4. The largest contour is found on the filled map. Twice its polygon's area is a sum over pixels of weights
   that depend on the mask only, collected per maximum and value.

Values carry 8 bits more than the levels they are cut at. Cuts ignore them, but they order the pixels inside
a level: smooth maps then have no plateaus, on which most critical pixels would otherwise lie.
"""
