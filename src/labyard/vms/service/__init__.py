"""The use cases, in the words of the contract: one file per kind of thing. `manager` joins them."""
