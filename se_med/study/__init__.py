"""Studies: arms x folds x seeds trained alike, paired case by case, and what follows from them."""
