"""The turntable data set: pictures of parametric cars, made on the spot.

bodies    a car model as numbers, and its triangle mesh
scene     what one picture looks like: light by time of day, place, camera, paint
raster    meshes and scenes into pixels (numba)
generate  the data set: which pictures, their files and their table
rule      which gallery pictures count for a query, and the raw-pixel control
"""
