"""The embedded world: fictitious facts, small models that really know them, and models with facts planted by hand.

`world` (no torch) makes the facts and texts, `tokenizer` the tokenizer, `models` trains and caches the demo models,
`planted` writes facts into a random model without training. What these models show is true of them, not of large
models: they exist so that every instrument can be checked against a known truth.
"""
