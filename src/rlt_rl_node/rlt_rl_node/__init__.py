"""Transitions, replay, actor and critic, with the learner node and the policy node."""
