"""What FAC Explorer promises to survive, tried at random: the table of docs/reliability.md.

promises   what a promise is, and how its trials are counted
world      the small workspace that they are made on
kills      processes that end at any moment, by SIGKILL; nursery is where they are born
bits       flipped bits of runs and caches
damage     truncated, empty and foreign files
clocks     signs of life from the future, from other machines and of processes that are others now
disk       disks that are full
fuzz       files and replies that were mutated from valid ones
load       many sessions at once beside a measure; people are who looks
licences   what the program rests on

They stand on the toys of the tests, so a clone is needed for them.
"""
