"""What a training computes: batches, gradients, line searches, and means of measures."""
