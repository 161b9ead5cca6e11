"""Reinforcement learning in the paper's four steps.

Each step is a file and hands the next one record:

    I   data_flow               problems             -> Queries
    II  response_collection     Queries              -> Responses
    III trajectory_generation   Queries, Responses   -> Trajectory
    IV  policy_update           Trajectory           -> new weights and Updates
"""
