"""Networks: units, the U-Net, where its gates stand, and its initial weights."""
