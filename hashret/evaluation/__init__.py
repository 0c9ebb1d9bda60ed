"""A model and a table, or codes and labels, to scores that say what they mean.

gallery.py   which gallery pictures count for which query
compare.py   representations of the same pictures, scored side by side
curves.py    hit, recall and precision over ranks
conditions.py  top-1 by turn and light: where retrieval breaks
nearest_lists.py  the nearest other picture of each as text; its top-1
strangers.py pictures of no known class: lists of classes with "-1", the threshold, how well strangers are told
competition.py  such lists as a competition's CSV: written, checked, read, scored
trec.py      TREC's runs and qrels: read, written, scored
neighbours.py  the neighbours of float features that codes keep; no labels
controls.py  what a model has to beat: raw pixels and a network that has learnt nothing
"""
