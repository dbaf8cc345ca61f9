"""A decision tree walked node by node, in plain Python and float64."""


def leaf_of(feature, threshold, left, right, row):
    """Return the node where a row ends; a leaf has left == -1; thresholds are as trained (float64)."""
    node = 0
    while left[node] != -1:
        node = left[node] if float(row[feature[node]]) <= float(threshold[node]) else right[node]
    return node
