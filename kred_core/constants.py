"""Numbers that mean the same everywhere."""

ZERO_POINT = 28.0  # mag, of counts28: a source of this magnitude has 1 count
NORMAL_MAD = 1.482602218505602  # standard deviation / median |deviation| of a normal distribution
