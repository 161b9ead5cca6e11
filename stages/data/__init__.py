"""Problems: the record, the generated geometry, and the preparation of a data set."""
