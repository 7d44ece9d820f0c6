"""The upper layer protocol machine of PS3.8 9.2, as data.

:data:`TABLE_9_10` is the standard's own table, to be laid beside it; :data:`ACTIONS` says of each
action what it does and where it leads. Two facts let an action be that small, and a test checks
both against the text of Tables 9-6 to 9-9:

- there is a transport connection in every state but Sta1 (in Sta4 it is being opened);
- ARTIM runs in Sta2 and Sta13, and nowhere else.

So whoever drives the machine compares two facts with the state, and needs no list of effects.
"""

from __future__ import annotations

import enum


class Role(enum.Enum):
    """Who asked for the association. Not who serves: an acceptor may be SCU as well as SCP."""

    REQUESTOR = "requestor"
    ACCEPTOR = "acceptor"


class State(enum.IntEnum):
    """The states of PS3.8 Tables 9-1 to 9-5."""

    STA1 = 1  #: idle
    STA2 = 2  #: transport connection open, awaiting A-ASSOCIATE-RQ
    STA3 = 3  #: awaiting the local A-ASSOCIATE response
    STA4 = 4  #: awaiting the transport connection
    STA5 = 5  #: awaiting A-ASSOCIATE-AC or -RJ
    STA6 = 6  #: association established
    STA7 = 7  #: awaiting A-RELEASE-RP
    STA8 = 8  #: awaiting the local A-RELEASE response
    STA9 = 9  #: release collision, requestor: awaiting the local A-RELEASE response
    STA10 = 10  #: release collision, acceptor: awaiting A-RELEASE-RP
    STA11 = 11  #: release collision, requestor: awaiting A-RELEASE-RP
    STA12 = 12  #: release collision, acceptor: awaiting the local A-RELEASE response
    STA13 = 13  #: awaiting the close of the transport connection


class Event(enum.IntEnum):
    """The events of PS3.8 Table 9-10; the value is the number there."""

    ASSOCIATE_REQUEST = 1
    TRANSPORT_OPENED = 2
    ASSOCIATE_AC = 3
    ASSOCIATE_RJ = 4
    TRANSPORT_INDICATION = 5
    ASSOCIATE_RQ = 6
    ASSOCIATE_ACCEPT = 7
    ASSOCIATE_REJECT = 8
    P_DATA_REQUEST = 9
    P_DATA_TF = 10
    RELEASE_REQUEST = 11
    RELEASE_RQ = 12
    RELEASE_RP = 13
    RELEASE_RESPONSE = 14
    ABORT_REQUEST = 15
    ABORT = 16
    TRANSPORT_CLOSED = 17
    ARTIM_EXPIRED = 18
    INVALID_PDU = 19


class Effect(enum.IntFlag):
    """What an action does besides leading to a state."""

    NONE = 0
    SEND = 1  #: send the PDU of the user's primitive
    INDICATE = 2  #: indicate, or confirm, to the user what was received
    ABORT = 4  #: send an A-ABORT
    P_ABORT = 8  #: indicate an A-P-ABORT to the user


#: PS3.8 Table 9-10. A row for each event, a column for each state.
TABLE_9_10 = """
       Sta1  Sta2  Sta3  Sta4  Sta5  Sta6  Sta7  Sta8  Sta9  Sta10 Sta11 Sta12 Sta13
Evt1   AE-1  .     .     .     .     .     .     .     .     .     .     .     .
Evt2   .     .     .     AE-2  .     .     .     .     .     .     .     .     .
Evt3   .     AA-1  AA-8  .     AE-3  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
Evt4   .     AA-1  AA-8  .     AE-4  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
Evt5   AE-5  .     .     .     .     .     .     .     .     .     .     .     .
Evt6   .     AE-6  AA-8  .     AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-7
Evt7   .     .     AE-7  .     .     .     .     .     .     .     .     .     .
Evt8   .     .     AE-8  .     .     .     .     .     .     .     .     .     .
Evt9   .     .     .     .     .     DT-1  .     AR-7  .     .     .     .     .
Evt10  .     AA-1  AA-8  .     AA-8  DT-2  AR-6  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
Evt11  .     .     .     .     .     AR-1  .     .     .     .     .     .     .
Evt12  .     AA-1  AA-8  .     AA-8  AR-2  AR-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
Evt13  .     AA-1  AA-8  .     AA-8  AA-8  AR-3  AA-8  AA-8  AR-10 AR-3  AA-8  AA-6
Evt14  .     .     .     .     .     .     .     AR-4  AR-9  .     .     AR-4  .
Evt15  .     .     AA-1  AA-2  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  .
Evt16  .     AA-2  AA-3  .     AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-2
Evt17  .     AA-5  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AR-5
Evt18  .     AA-2  .     .     .     .     .     .     .     .     .     .     AA-2
Evt19  .     AA-1  AA-8  .     AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-7
"""

#: PS3.8 Tables 9-6 to 9-9: what each action does, and the state it leads to. Two have a second outcome:
#: of AR-8, Sta10, of an acceptor; of AE-6, Sta13, in ``dicomnode.core.association``, which plays Evt8.
ACTIONS: dict[str, tuple[Effect, State]] = {
    "AE-1": (Effect.NONE, State.STA4),
    "AE-2": (Effect.SEND, State.STA5),
    "AE-3": (Effect.INDICATE, State.STA6),
    "AE-4": (Effect.INDICATE, State.STA1),
    "AE-5": (Effect.NONE, State.STA2),
    "AE-6": (Effect.INDICATE, State.STA3),
    "AE-7": (Effect.SEND, State.STA6),
    "AE-8": (Effect.SEND, State.STA13),
    "DT-1": (Effect.SEND, State.STA6),
    "DT-2": (Effect.INDICATE, State.STA6),
    "AR-1": (Effect.SEND, State.STA7),
    "AR-2": (Effect.INDICATE, State.STA8),
    "AR-3": (Effect.INDICATE, State.STA1),
    "AR-4": (Effect.SEND, State.STA13),
    "AR-5": (Effect.NONE, State.STA1),
    "AR-6": (Effect.INDICATE, State.STA7),
    "AR-7": (Effect.SEND, State.STA8),
    "AR-8": (Effect.INDICATE, State.STA9),
    "AR-9": (Effect.SEND, State.STA11),
    "AR-10": (Effect.INDICATE, State.STA12),
    "AA-1": (Effect.ABORT, State.STA13),
    "AA-2": (Effect.NONE, State.STA1),
    "AA-3": (Effect.INDICATE, State.STA1),
    "AA-4": (Effect.P_ABORT, State.STA1),
    "AA-5": (Effect.NONE, State.STA1),
    "AA-6": (Effect.NONE, State.STA13),
    "AA-7": (Effect.ABORT, State.STA13),
    "AA-8": (Effect.ABORT | Effect.P_ABORT, State.STA13),
}

#: The states in which ARTIM runs.
ARTIM_STATES = frozenset({State.STA2, State.STA13})
#: In which a response to an operation may be sent.
ANSWERING_STATES = frozenset({State.STA6, State.STA8})
#: The peer has asked for release, and the local A-RELEASE response is awaited.
RELEASING_STATES = frozenset({State.STA8, State.STA9, State.STA12})


def _read(table: str) -> dict[tuple[Event, State], str]:
    head, *rows = (line.split() for line in table.strip().splitlines())
    return {
        (Event(int(event[3:])), State(int(state[3:]))): action
        for event, *actions in rows
        for state, action in zip(head, actions, strict=True)
        if action != "."
    }


#: :data:`TABLE_9_10`, by event and state; a cell that is empty there is absent here.
TRANSITIONS = _read(TABLE_9_10)

_STEPS = {cell: (action, *ACTIONS[action]) for cell, action in TRANSITIONS.items()}

#: The same, for each end, with what the action does, and the state that it leads to.
STEPS = {
    Role.REQUESTOR: _STEPS,
    Role.ACCEPTOR: {
        cell: (action, effect, State.STA10 if action == "AR-8" else following)
        for cell, (action, effect, following) in _STEPS.items()
    },
}


def step(state: State, event: Event, role: Role) -> tuple[str, Effect, State]:
    """Return the action's name, what it does, and the next state.

    :raises KeyError: when the cell is empty: the event cannot, or must not, happen in that state.
    """
    return STEPS[role][event, state]
