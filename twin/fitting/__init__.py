"""Fits of the twin's four estimators to measurements. Offline work: may import scipy and pyarrow."""
