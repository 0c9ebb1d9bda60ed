"""Named protocols: a card ties data, training, search and metrics together, so that a score says what it means.

card.py     what a card holds, and its hash
cards.py    the cards
parts.py    a card applied to pictures: who is trained on, who asks, who is searched; leaks
models.py   the networks of a run of a protocol: trained by the card's recipe, or given
rows.py     what is scored side by side: codes, features, and what they have to beat
rejection.py  pictures of no class, told from the others
product_search.py  features by a product quantiser, beside exact search
batch.py    a picture of a training batch
run.py      all of it, in order
result.py   a result: a folder that carries the card's hash
ranking.py  results of one card, compared query by query
"""
