"""Grades of H&E: slide → tiles → networks → grades of tiles, or of bags of tiles → grade of slide and case.

    tile_frames     what is graded: a slide cut into tiles, an image, a folder of tiles
    tile_networks   cards and own predictors that grade a tile; modular pairs; ensembles
    bag_networks    cards that grade a bag of tiles, in parts, so that any bag streams
    bags            groups of a slide's tiles, and what the networks say of them
    maps            grades of tiles into the maps of a case folder
    explanations    what in a tile speaks for its grade
    reporting       maps → table, readouts, picture, outlines, report
    case            `grade`: all of it, in order
    tile_export     tiles as image files
"""
