"""Reading and writing files: strict NIfTI images in, atomic files out."""
