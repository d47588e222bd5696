"""Grades of glioma: slides → tiles → networks → grades; MRI → regions → networks → grade; and both together.

    case              `grade`: what a patient has → the networks that are asked → one grade
    patient           what is given of a patient and how it is to be graded

    tile_frames       what is graded of slides: a slide cut into tiles, an image, a folder of tiles
    tile_networks     cards and own predictors that grade a tile; modular pairs; ensembles
    bag_networks      cards that grade a bag of tiles, in parts, so that any bag streams
    graders           either of them by one door
    bags              groups of a slide's tiles, and what the networks say of them
    maps              grades of tiles into the maps of a case folder
    explanations      what in a tile speaks for its grade
    reporting         maps → table, readouts, picture, outlines, report
    slide_case        the slides of a case: all of it, in order
    tile_export       tiles as image files

    volume_files      the MRI of a patient, and what is computed of it once for all networks
    volume_networks   cards that grade a volume
    volume_case       MRI: all of it, in order
    volume_reporting  votes → summary, pictures, report
    explained         one network's explanation of one tile, or of the MRI of a patient

    fusion            a soft vote of networks for slides and volumes
    fusion_cards      what votes, with which weights; which classes mean which
    fusion_report     the vote → case.json, case.html
"""
