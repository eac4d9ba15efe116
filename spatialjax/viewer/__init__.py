"""The atlas as one interactive page: rotate, slice and colour the tissue in any browser, without a network.

The page is drawn by K3D, the JavaScript library that the Python package ``k3d`` ships whole; it is put into the page
together with the cells, so that the file can be mailed, archived and opened from a disk.

.. code-block:: python

    from spatialjax.viewer import write_viewer

    write_viewer(atlas, "viewer.html", genes=["MBP"])
"""

from spatialjax.viewer.genes import GeneChoice, choose_genes
from spatialjax.viewer.page import page, write_viewer

__all__ = ["GeneChoice", "choose_genes", "page", "write_viewer"]
