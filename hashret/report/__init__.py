"""A training report: a run and what its model makes of labelled pictures in, one HTML page out.

ranking.py     the nearest of each query, and which class answers for which
bits.py        what the bits of a set of codes are worth
labels.py      labels that the neighbours contradict
history.py     the log of a run as groups of curves
analysis.py    all numbers of a report, computed once
picture_map.py  a map of the pictures by UMAP, where umap-learn is there
verdict.py     the numbers in words
charts.py      curves, bars and maps as SVG text         thumbnails.py  pictures as data URIs
heat.py        maps of top-1 by view and light           text.py        labels and paths as a page can show them
page.py        all of it through page.html, style.css and sort.js; frame.html is what pages share
comparison.py  several runs or results side by side, on a page of their own: comparison.html
answers.py     answers about pictures as PNG files: most predicted classes, samples beside training pictures
"""
