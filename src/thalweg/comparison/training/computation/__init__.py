"""Computation of a training: batches, gradients, line searches, and means of measures."""
