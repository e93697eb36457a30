"""What can be wrong with a data set, each rule once: training uses the part that stops it, `se-med check` all of it."""
