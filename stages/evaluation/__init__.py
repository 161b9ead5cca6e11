"""The evaluation scheme: the answer judge, the generation settings, reflection, and the numbers from the responses."""
