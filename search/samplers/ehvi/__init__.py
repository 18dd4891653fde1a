"""Expected hypervolume improvement with exact costs: what to train next, of all that is new and all that waits.

    encoding.py      architectures and their costs as numbers, similar networks near
    surrogate.py     what full training will come to, learnt from all fidelities: Gaussian processes of scikit-learn
    gain.py          by how much an outcome enlarges the front, and what to expect of it in a second of training
    planner.py       all of it together: a decision
    sampler.py       the decision as an Optuna sampler

Knows architectures, costs and measurements; nothing of studies, spaces or who trains.
"""
