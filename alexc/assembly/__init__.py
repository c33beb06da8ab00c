"""The parts of a build, which `alexc.build` puts together: what it is told, makes and writes."""
