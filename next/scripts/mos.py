import json,sys,numpy as np,torch
torch.set_num_threads(1)
from llasa_lite.audio import load
from llasa_lite.checkpoints import load_codec
from speechmos import dnsmos
m=sorted([x for x in map(json.loads,open('/work/shared/corpus/manifest.jsonl')) if x['split']=='test'],key=lambda x:x['id'])[:40]
c=load_codec('nano','cpu',torch.float32); mos=lambda w: dnsmos.run(np.clip(w,-1,1).astype(np.float64),16000)['p808_mos']
W=[load(f"/work/shared/corpus/clips/{x['id']//1000:03d}/{x['id']:05d}.ogg") for x in m]
print('codec',np.mean([mos(c.decode(c.encode(w))) for w in W]),'originals',np.mean([mos(w) for w in W]))
