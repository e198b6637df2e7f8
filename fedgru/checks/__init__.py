"""`fedgru check`: is a run an honest experiment?

`leaks` looks for what was fitted or known beyond train, `records` for numbers that do not fit
each other, `counterfactuals` changes the future to see that the past does not depend on it.
"""
