from .driver import train
from .experiment import Agent, Experiment, Schedule, SearchAgain
from .run_folder import RunFolder, open_folder

__all__ = [
    "Agent",
    "Experiment",
    "RunFolder",
    "Schedule",
    "SearchAgain",
    "open_folder",
    "train",
]
