"""Compiled kernels of the component tree.

`general` handles maps with any number of levels; `hills`, `tree` and `score` are the fast road for 8-bit
maps: the same boxes from a merge tree that looks only at the few pixels that matter.

1. Pixels are ordered by value, brightest first, raster order among equals. For each pixel an 8-bit mask
   says which neighbours come before it. A table of 256 entries then tells the *events*: pixels that join
   several components or may extend a bounding box. On smooth maps that is one pixel in thirty.
2. A row is cut into *hills*, runs that fall to both sides of one row maximum. From any pixel of a hill a
   path of earlier pixels leads to that maximum, from there to a maximum in a neighbouring row, and so on
   to a maximum of the map. So every pixel is assigned to a maximum without being visited: components are
   sets of maxima, and a union-find over maxima, run over the events alone, gives every bounding box.
3. Holes are the components of the inverted map over 4 neighbours, until they reach the frame. The level
   at which each does so fills the holes of all cuts at once.
4. The largest contour is found on the filled map. Twice its polygon's area is a sum over pixels of
   weights that depend on the mask only, collected per maximum and value.

Values carry 8 bits more than the levels they are cut at. Cuts ignore them; but they order the pixels
inside a level, and smooth maps then have no plateaus, on which most events would otherwise fall.
"""
