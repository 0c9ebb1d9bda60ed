"""The turntable data set: pictures of parametric cars, made on the spot.

bodies          a car model as numbers, and its triangle mesh
scene           what one picture looks like: light by time of day, place, camera, paint
render          one picture from mesh and scene: the passes below in their order (numba)
  projection      camera, where vertices fall, which triangle is in front
  shadow          the car's shadow on the ground
  light           what comes from the sky, what falls on the ground
  surroundings    ground, backdrop and sky
  materials       what each point of a car is made of
  shading         the car's materials under that light
  postprocessing  lamp halos, tone mapping, vignette, grain
  noise           procedural noise
  kernels         how all of this is compiled, and the scalar functions it shares
generate        the data set: which pictures, their files and their table
rule            which gallery pictures count for a query, and the raw-pixel control
"""
