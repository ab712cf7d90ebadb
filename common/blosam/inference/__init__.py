"""From files to results: opening bundles, collecting inputs, segmenting them and saying how sure a mask is."""
