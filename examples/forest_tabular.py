"""Correct a random forest on a table with missing values; its leaves, or two columns, embed rows.

    pip install 'residual-memory[sklearn]'
    python forest_tabular.py

The price of a house depends on its size, its year and its street. The table says where the house
stands, but not which street that is, and so coarse a forest cannot tell 150 of them apart.
"""

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import train_test_split

from resmem.sklearn import ResMemRegressor

rng = np.random.default_rng(0)
n = 4000
street = rng.integers(0, 150, n)
place = rng.uniform(0, 10, (150, 2))[street] + 0.02 * rng.normal(size=(n, 2))
size, year = rng.gamma(9, 12, n), rng.integers(1900, 2020, n).astype(float)
price = 3 * size + 0.5 * (year - 1900) + 60 * rng.normal(size=150)[street] + 20 * rng.normal(size=n)
year[rng.random(n) < 0.05] = np.nan  # nobody knows when these were built

table = np.column_stack([size, year, place])
X, X_test, y, y_test = train_test_split(table, price, random_state=0)
forest = RandomForestRegressor(50, min_samples_leaf=20, random_state=0)


def place_of(rows):
    """Return where the houses stand."""
    return rows[:, 2:]


for embed in ("leaves", place_of):
    model = ResMemRegressor(forest, embed).fit(X, y)
    print(f"\nembed={embed}: {model.tuned_.reason}")
    print(model.memory_.evaluate(*model.collect(X_test), y_test, knn=model.tuned_))
