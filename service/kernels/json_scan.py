"""The structure of a JSON text, without making any object and without the interpreter's lock."""

from numba import njit

QUOTE, BACKSLASH, COMMA = 0x22, 0x5C, 0x2C
OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT = 0x5B, 0x5D, 0x7B, 0x7D


@njit(cache=True, nogil=True)
def scan(text, max_values, max_depth):
    """Return (values, depth) of a JSON text, ending early beyond either limit.

    Values are the elements of arrays and objects, counted by commas and opening brackets outside strings:
    at least as many as a parser would make. A text that is no JSON is counted all the same.

    Parameters
    ----------
    text
        (num_bytes,) uint8.
    max_values, max_depth
        Where to end.
    """
    num_values, depth, deepest = 1, 0, 0
    in_string, escaped = False, False
    for byte in text:
        if in_string:
            if escaped:
                escaped = False
            elif byte == BACKSLASH:
                escaped = True
            elif byte == QUOTE:
                in_string = False
        elif byte == QUOTE:
            in_string = True
        elif byte == COMMA:
            num_values += 1
        elif byte in (OPEN_ARRAY, OPEN_OBJECT):
            num_values += 1
            depth += 1
            deepest = max(deepest, depth)
        elif byte in (CLOSE_ARRAY, CLOSE_OBJECT):
            depth -= 1
        if num_values > max_values or deepest > max_depth:
            break
    return num_values, deepest
