"""The log and what stands in it: records, ids, subjects, run contexts, queues and folds."""
