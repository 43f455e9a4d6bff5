"""volseg in napari: a widget over :class:`volseg.Session`, readers, a writer, sample data.

``napari.yaml`` beside this file says what there is, for npe2, which imports each part when it is used. So
nothing is exported here, and this module is short: volseg is imported without napari, which comes with
``pip install napari``, the extra ``napari``; Qt is the user's choice.
"""

__all__: list[str] = []
