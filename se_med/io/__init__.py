"""Reading and writing files: strict NIfTI, PNG, JPEG and TIFF images in, atomic files out."""
