"""Code of plans in processes of its own: ``python.run`` and ``@action(isolation="process")``.

``calls`` is the way in: it gives an interpreter one job and waits for what comes of it. ``interpreter`` owns one such
process and the socket to it, ``warm`` keeps some that have started already, ``messages`` is what both sides say to each
other, and ``child`` and ``childctx`` are the other side. What starts, ends and finds the process is ``processes``.

Theory of operation
    One interpreter, one job. What runs in it may leave anything behind in it, so it is thrown away afterwards. A warm
    one has imported what every job needs, and nothing of any plan.

    Both sides speak JSON over a socket pair that the child alone inherits, never pickle; nothing of a job is in its
    arguments or its environment. What it prints is no part of that: it goes to the log as a command's output does.

    The code of an action is the generation's, not the folder's: its sources go over with the job and are imported there
    as they were here (``importing``). Parameters are checked on both sides.

    ``ctx`` over there asks here, through the ``Context`` of the attempt, so that whatever that refuses is refused.

    Stop. The cancellation of the call tells the child why, and then its tree is ended like any other (``processes``):
    TERM, patience, KILL. TERM raises ``SystemExit`` once in a ``def`` and cancels an ``async def`` once, so that their
    clean-up runs; what it comes to within the patience counts as it does in this process.

    What a crash of either side does. A child that ends without an answer fails its step with ``ProcessDied``. A server
    that ends closes the socket: the child's reading thread then kills its whole group. (The kernel could kill the child
    when its parent dies, but that would be quicker, and leave what the child has started.) What has left the group, and
    an interpreter in which C code keeps that thread from running, the next start finds by their marks.
"""
