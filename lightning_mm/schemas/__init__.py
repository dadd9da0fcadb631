"""The fields of our JSON files, one file each; imported when one is read, as pydantic takes a while."""
