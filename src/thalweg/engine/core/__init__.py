"""The data of a step: the program, the batch of parameters, their precision, shards and memory."""
