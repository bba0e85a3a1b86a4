"""decoder.py CODEC KEPT: another decoder for the nano in this checkout; codes stay. CODEC: folder of `train codec --freeze-codes`."""
import sys,glob,os,json,torch
from safetensors.torch import load_file,save_file
from safetensors import safe_open
src,kept=sys.argv[1],float(sys.argv[2]); N='llasa_lite/nano'
B={k:v for f in glob.glob(src+'/*.safetensors') for k,v in load_file(f).items()}
for f in sorted(glob.glob(N+'/codec/*.safetensors')):
    A=load_file(f); meta=safe_open(f,'pt').metadata()
    save_file({k:(v.float()*kept+B[k].float()*(1-kept)).to(v.dtype) if not torch.equal(v,B[k].to(v.dtype)) else v for k,v in A.items()},f,meta); os.chmod(f,0o644)
from llasa_lite.data import read_tokens,write_tokens
from llasa_lite.checkpoints import fingerprint,codec_source
rows=read_tokens(N+'/tokens.safetensors'); write_tokens(rows,N+'/tokens.safetensors',{'codec':'nano','fingerprint':fingerprint(codec_source('nano'))})
from llasa_lite import Llasa,Voice
import numpy as np
L=Llasa.from_pretrained('nano',device='cpu')
for f in sorted(glob.glob(N+'/voices/*.json')):
    v=Voice.load(f); clip=open(f.replace('.json','.clip.ogg'),'rb').read(); old=v.codes['nano']; w=v.wav
    p=L.prepare(v.replace(codes={},timbre={},heard={})); assert np.array_equal(p.codes['nano'],old),f
    p.save(f); open(f.replace('.json','.clip.ogg'),'wb').write(clip)
print(fingerprint(codec_source('nano')),sum(os.path.getsize(os.path.join(d,f)) for d,_,fs in os.walk('llasa_lite') for f in fs if not f.endswith('.pyc'))/1e6,'MB')
