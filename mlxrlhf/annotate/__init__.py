"""Pairwise human preferences on a local web page: where pairs come from, who voted what, how far people agree."""
