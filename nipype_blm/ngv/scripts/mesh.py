"""Fill a closed surface with tetrahedra, or split those of a mesh, by Gmsh.

Run as ``mesh.py build SURFACE.stl OUT.msh`` and ``mesh.py refine IN.msh OUT.msh STEPS``.
"""

import sys
from pathlib import Path

import gmsh

# What ArchNGV's workflow asks for as `-algo initial3d`: no points inside but those of the surface.
_INITIAL_MESH_ONLY = 3
_HEADER = 80  # bytes of a binary STL


def _build(surface: str, out: str) -> None:
    # Gmsh takes a header of zeros, as trimesh writes it, for the end of the file.
    content = Path(surface).read_bytes()
    if not content[:_HEADER].strip(b"\0"):
        content = b"binary STL".ljust(_HEADER) + content[_HEADER:]
    Path("surface.stl").write_bytes(content)
    gmsh.option.setNumber("Mesh.Algorithm3D", _INITIAL_MESH_ONLY)
    gmsh.merge("surface.stl")
    loop = gmsh.model.geo.addSurfaceLoop([1], 1)
    gmsh.model.geo.addVolume([loop], 1)
    gmsh.model.geo.synchronize()
    gmsh.model.addPhysicalGroup(3, [1], 1, "extra")
    gmsh.model.mesh.generate(3)
    _write(out)


def _refine(source: str, out: str, steps: str) -> None:
    gmsh.open(source)
    for _ in range(int(steps)):
        gmsh.model.mesh.refine()
    _write(out)


def _write(out: str) -> None:
    # Gmsh ends well, too, when it has read or made nothing.
    if not any(len(tags) for tags in gmsh.model.mesh.getElements(3)[1]):
        sys.exit(f"{out} would have no tetrahedron: {gmsh.logger.getLastError() or 'no surface'}")
    gmsh.write(out)


if __name__ == "__main__":
    gmsh.initialize(["gmsh"], readConfigFiles=False)
    gmsh.option.setNumber("General.Terminal", 1)
    if sys.argv[1] == "build":
        _build(*sys.argv[2:])
    else:
        _refine(*sys.argv[2:])
    gmsh.finalize()
