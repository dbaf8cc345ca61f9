"""What crosses the border as JSON: the only pydantic models, and their way to and from the domain.

Field names are the contract's. Unknown fields are refused; numbers are finite. There is a module for
each topic; what all that is read has in common is in `border`.
"""
