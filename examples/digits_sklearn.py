"""Correct a scikit-learn pipeline on handwritten digits.

pip install 'residual-memory[sklearn]'
python digits_sklearn.py
"""

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from resmem.sklearn import ResMemClassifier

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
pipeline = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=500))

model = ResMemClassifier(pipeline).fit(X, y)  # trains, gets honest outputs, tunes
print(model.tuned_)  # does it help, on rows that did not choose the settings?
print(model.memory_.evaluate(*model.collect(X_test), y_test, knn=model.tuned_))
print(f"accuracy {model.estimator_.score(X_test, y_test):.4f} -> {model.score(X_test, y_test):.4f}")
