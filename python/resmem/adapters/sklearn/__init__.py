"""Estimators of scikit-learn's kind: its neighbours, found exactly, and models with a memory."""
