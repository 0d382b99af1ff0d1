"""Search of a run's settings with KerasTuner, by trials that need no clean label."""

TUNERS = ("random", "bayesian", "hyperband")
# What a search may go by, and which way is better.
OBJECTIVES = {"noisy_accuracy": "max", "val_clid_ref": "min", "clean_accuracy": "max"}
SEARCHABLE = (
    "temperature",
    "batch_size",
    "learning_rate",
    "meta_learning_rate",
    "warmup_epochs",
    "weight_net",
    "meta_batch_size",
)
