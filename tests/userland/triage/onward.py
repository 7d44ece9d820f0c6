"""Onward: what arrives goes to the archive while it arrives."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from zope.interface import implementer

from dicomnode import (
    DicomNodeError,
    IInstanceWriter,
    Instance,
    IStorage,
    OperationFailed,
    Pipe,
    ServiceUser,
    Status,
    associate,
)


@implementer(IStorage)
class Onward:
    """Keeps nothing: the archive does. An association with it serves as many instances as it lasts."""

    def __init__(self, reactor: IReactorTime, archive: IStreamClientEndpoint, ae_title: str) -> None:
        self._reactor = reactor
        self._archive = archive
        self._ae_title = ae_title
        self._users: dict[tuple[str, str], ServiceUser] = {}

    async def open(self, instance: Instance) -> IInstanceWriter:
        try:
            user = await self._user(instance.sop_class_uid, instance.transfer_syntax_uid)
        except DicomNodeError as error:
            raise OperationFailed(Status.OUT_OF_RESOURCES, f"the archive: {error}") from error
        pipe = Pipe()
        storing = user.store(
            pipe,
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
        )
        return await pipe.into(storing)

    async def _user(self, sop_class: str, transfer_syntax: str) -> ServiceUser:
        what = sop_class, transfer_syntax
        if what not in self._users:
            self._users[what] = user = await associate(
                self._reactor,
                self._archive,
                calling_ae_title="TRIAGE",
                called_ae_title=self._ae_title,
                contexts={sop_class: [transfer_syntax]},
            )
            user.when_ended().addBoth(lambda _: self._users.pop(what))
        return self._users[what]

    async def stop(self) -> None:
        for user in list(self._users.values()):
            await user.release()
